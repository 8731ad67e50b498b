//! The cause table: every cause, what it means, and which answers it changes. Data, in one place.
//!
//! A failure that is not listed here cannot be reported: the enum has no catch-all, and what a probe cannot name is
//! [`Cause::CouldNotRun`], which is `unknown` and changes no answer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Status of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Healthy,
    /// It works, but a limit is crossed or something is configured wrongly.
    Degraded,
    Unhealthy,
    /// No fresh observation, or the probe could not run. Neither healthy nor unhealthy.
    Unknown,
    /// No observation yet.
    Starting,
}

impl Status {
    pub const ALL: [Self; 5] = [Self::Healthy, Self::Degraded, Self::Unhealthy, Self::Unknown, Self::Starting];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
            Self::Starting => "starting",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a cause does to the instance verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInstance {
    /// 200: taking this instance out would help nobody.
    Keeps,
    /// 503 in any case.
    Closes,
    /// 503 only while another member can do better.
    ClosesIfPeerPasses,
}

/// What a cause does to the region verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRegion {
    Keeps,
    /// Only through the rule that somebody must be able to serve.
    Capacity,
    /// Closes after the dependency's hold, if no member passes.
    AfterHold,
    /// Neither closes nor opens: a running hold stands still.
    Holds,
}

/// Whether replacing the instance could cure it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReplacement {
    Never,
    /// After restarting nginx or remounting did not help.
    AfterLadder,
    /// Only when the fault was attributed to this instance alone.
    LocalOnly,
    /// Local and attributed, after the ladder.
    LocalAfterLadder,
    Yes,
}

/// What kind of fault it is, for budgets and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Something is down or answers wrongly.
    Fault,
    /// A setting, a right or a file is wrong: a person must change it, and a replacement would come up the same.
    Configuration,
    /// A limit is crossed.
    Limit,
    /// The probe itself.
    Probe,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub cause: Cause,
    pub name: &'static str,
    pub status: Status,
    pub class: Class,
    pub instance: OnInstance,
    pub region: OnRegion,
    pub replacement: OnReplacement,
    /// The cause in plain words, to follow the component's name.
    pub words: &'static str,
    /// What a person should do.
    pub hint: &'static str,
}

macro_rules! cause_table {
    ($($(#[$doc:meta])* $cause:ident $name:literal: $status:ident $class:ident $instance:ident $region:ident $replacement:ident, $words:literal, $hint:literal;)*) => {
        /// Why a component is not healthy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Cause { $($(#[$doc])* #[serde(rename = $name)] $cause,)* }

        /// The rows, in the order of the enum.
        pub const TABLE: &[Row] = &[$(Row {
            cause: Cause::$cause, name: $name, status: Status::$status, class: Class::$class, instance: OnInstance::$instance,
            region: OnRegion::$region, replacement: OnReplacement::$replacement, words: $words, hint: $hint,
        },)*];
    };
}

// cause                 name                        status    class         instance           region    replacement
cause_table! {
    NginxRefused        "nginx-refused":             Unhealthy Fault         Closes             Capacity  LocalAfterLadder,
        "refuses connections", "see `systemctl status nginx` and `journalctl -u nginx`; `nginx -t` finds configuration errors";
    NginxMasterGone     "nginx-master-gone":         Unhealthy Fault         Closes             Capacity  AfterLadder,
        "is not running: connections are refused and its master process is gone", "start it: `systemctl start nginx`";
    NginxTimeout        "nginx-timeout":             Unhealthy Fault         Closes             Capacity  LocalAfterLadder,
        "accepts connections but does not answer", "its workers are blocked or frozen: look for processes in state D or T with `ps -C nginx -o pid,stat,wchan:32,cmd`";
    NginxBadStatus      "nginx-bad-status":          Unhealthy Fault         Closes             Capacity  LocalAfterLadder,
        "answers its own probe page with an error", "see nginx's error log; the page is served from memory, so nginx itself is in trouble";
    NginxForeignAnswer  "nginx-foreign-answer":      Degraded  Configuration Keeps              Keeps     Never,
        "answers, but not with the agent's probe page", "add `include /etc/nginx/dr-agent.d/*.conf;` as the first line of every server block and `nginx -s reload`";

    AppUnreachable      "app-unreachable":           Unhealthy Fault         ClosesIfPeerPasses Capacity  Never,
        "cannot be reached through nginx", "if nginx is healthy, look at the connection limit and accept queue: `ss -ltn`";
    AppTimeout          "app-timeout":               Unhealthy Fault         ClosesIfPeerPasses Capacity  Never,
        "does not answer in time", "see the app's log and nginx's upstream timings";
    AppBadStatus        "app-bad-status":            Unhealthy Fault         ClosesIfPeerPasses Capacity  Never,
        "answers with an unexpected status", "see the app's log; `probe.app.status` sets what is accepted";
    AppBadAnswer        "app-bad-answer":            Unhealthy Fault         ClosesIfPeerPasses Capacity  Never,
        "gives a broken or incomplete answer", "see nginx's error log for the upstream's reason";
    AppBodyMismatch     "app-body-mismatch":         Unhealthy Fault         ClosesIfPeerPasses Capacity  Never,
        "answers without the expected text", "compare the page with `probe.app.body`";
    AppSlow             "app-slow":                  Degraded  Limit         Keeps              Keeps     Never,
        "answers more slowly than `probe.app.latency_limit`", "see the app's log and the database's load";

    EfsNotMounted       "efs-not-mounted":           Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "is not mounted", "mount it: `systemctl start` its mount unit, or `mount` by hand, and read the error";
    EfsWrongSource      "efs-wrong-source":          Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "is mounted from another source or with another file system", "compare `findmnt` with `efs` and `probe.efs` in the configuration";
    EfsHung             "efs-hung":                  Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "does not answer: file operations hang", "if other instances are well, remount it here (`umount -l`, then mount); if not, look at the file system and its mount targets";
    EfsServerUnreachable "efs-server-unreachable":   Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "hangs, and its mount target cannot be reached on TCP 2049", "check the mount target of this zone, its security group and the route to it";
    EfsIoError          "efs-io-error":              Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "answers file operations with errors", "see `dmesg` for NFS messages";
    EfsProxyGone        "efs-proxy-gone":            Unhealthy Fault         Closes             Keeps     LocalAfterLadder,
        "has lost its TLS proxy on this instance while the mount target answers", "remount it: `umount -l`, then `mount -t efs`";
    EfsStaleHandle      "efs-stale-handle":          Degraded  Fault         Keeps              Keeps     Never,
        "has stale handles: the canary was removed or the export replaced under it", "it is opened again once by itself; if it stays, remount";
    EfsReadOnly         "efs-read-only":             Degraded  Configuration Keeps              Keeps     Never,
        "is read-only where this region should write", "end the EFS replication that makes this file system a target";
    EfsNoPermission     "efs-no-permission":         Degraded  Configuration Keeps              Keeps     Never,
        "refuses the agent's canary", "create `.dr-agent` at its root, mode 0770, owned by group `dr-agent` (id 848)";
    EfsQuota            "efs-quota":                 Degraded  Configuration Keeps              Keeps     Never,
        "has no space or quota left for the canary", "free space or raise the quota";
    EfsNoDirectory      "efs-no-directory":          Degraded  Configuration Keeps              Keeps     Never,
        "has no `.dr-agent` directory for the canary", "create `.dr-agent` at its root, mode 0770, owned by group `dr-agent` (id 848)";
    EfsSlow             "efs-slow":                  Degraded  Limit         Keeps              Keeps     Never,
        "is slow", "look at its burst credits and throughput mode";

    DatabaseUnknownHost "database-unknown-host":     Degraded  Configuration Keeps              Holds     Never,
        "has a host name that does not resolve", "compare `database` in the configuration with the endpoint's name; check the resolver";
    DatabaseRefused     "database-refused":          Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "refuses connections", "is the server running, and is the port right?";
    DatabaseTimeout     "database-timeout":          Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "does not answer in time", "see the stage it stopped in: `tcp` is the network or a security group, `greeting` and later a server that is stuck";
    DatabaseUnreachable "database-unreachable":      Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "cannot be reached over the network", "check the route and the security groups";
    DatabaseLost        "database-connection-lost":  Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "drops the connection", "see the server's error log: it crashed, restarts, or kills sessions";
    DatabaseNotMysql    "database-not-mysql":        Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "answers something that is not the MySQL protocol", "is `database` the right address and port?";
    DatabaseError       "database-error":            Unhealthy Fault         ClosesIfPeerPasses AfterHold LocalOnly,
        "answers the probe's query with an error", "see the error and the server's log";
    DatabaseReadOnly    "database-read-only":        Unhealthy Fault         Keeps              Keeps     Never,
        "is read-only where a writer is expected", "is this the primary's endpoint? look at `read_only` and the replica status";
    DatabaseAccessDenied "database-access-denied":   Degraded  Configuration Keeps              Keeps     Never,
        "refuses the agent's user or password", "compare `probe.database.user` and the password file with the account; is the password expired?";
    DatabaseNoRight     "database-no-right":         Degraded  Configuration Keeps              Keeps     Never,
        "does not grant the agent's account what it needs", "grant it as the README's database section shows";
    DatabaseNoSchema    "database-no-schema":        Degraded  Configuration Keeps              Keeps     Never,
        "does not have the database the agent's account asks for", "create it, or correct the configuration";
    DatabaseTls         "database-tls":              Degraded  Configuration Keeps              Keeps     Never,
        "fails TLS verification", "is `probe.database.tls_ca` the authority's bundle, and is the host name the certificate's?";
    DatabaseTlsFile     "database-tls-file":         Degraded  Configuration Keeps              Holds     Never,
        "cannot be asked: the file of authorities for TLS cannot be used", "put the authority's bundle, PEM, at `probe.database.tls_ca`, readable by everybody";
    DatabaseNoPassword  "database-no-password-file": Degraded  Configuration Keeps              Holds     Never,
        "cannot be asked: there is no readable password file", "write the password to `probe.database.password_file`, mode 0640, root:dr-agent";
    DatabaseTooMany     "database-too-many-connections": Degraded Limit      Keeps              Keeps     Never,
        "has no connection left", "raise `max_connections` or the account's limit, or find who leaks connections";
    DatabaseHostBlocked "database-host-blocked":     Degraded  Limit         Keeps              Keeps     Never,
        "has blocked this host after too many broken connections", "run `FLUSH HOSTS` (or `mysqladmin flush-hosts`) on the server; the app on this host is blocked as well";
    DatabaseSlow        "database-slow":             Degraded  Limit         Keeps              Keeps     Never,
        "is slow", "see the stage that takes long, and the server's load";
    DatabaseLag         "database-lag":              Degraded  Limit         Keeps              Keeps     Never,
        "lags behind its source", "look at the replica's load and its largest transactions";

    DiskFull            "disk-full":                 Unhealthy Fault         Closes             Capacity  Yes,
        "has a full local disk", "free space: `du -x --max-depth=2 / | sort -n | tail`";
    DiskNoInodes        "disk-no-inodes":            Unhealthy Fault         Closes             Capacity  Yes,
        "has a local disk without free inodes", "find the directory with the many small files";
    DiskReadOnly        "disk-read-only":            Unhealthy Fault         Closes             Capacity  Yes,
        "has a read-only local disk", "see `dmesg` for I/O errors: the volume is failing";
    DiskNearlyFull      "disk-nearly-full":          Degraded  Limit         Keeps              Keeps     Never,
        "is running out of local disk", "free space before it is full";
    MemoryPressure      "memory-pressure":           Degraded  Limit         Keeps              Keeps     Never,
        "stalls for memory", "see who uses it: `ps aux --sort=-rss | head`";
    IoPressure          "io-pressure":               Degraded  Limit         Keeps              Keeps     Never,
        "stalls for I/O", "see `/proc/pressure/io` and `iostat -x`";

    ExecCritical        "exec-critical":             Degraded  Fault         Keeps              Keeps     Never,
        "reports critical", "run its command by hand as the agent's user";
    ExecWarning         "exec-warning":              Degraded  Limit         Keeps              Keeps     Never,
        "reports a warning", "run its command by hand as the agent's user";
    ExecTimeout         "exec-timeout":              Degraded  Fault         Keeps              Keeps     Never,
        "did not end in time and was killed", "make it faster or raise its `timeout`";
    ExecNotTrusted      "exec-not-trusted":          Degraded  Configuration Keeps              Keeps     Never,
        "is not run: its program is not owned by root or can be changed by others", "`chown root:root` the program and `chmod go-w` it";

    WiringFenceOpen     "wiring-fence-open":         Unhealthy Configuration Closes             Keeps     Never,
        "shows that nginx serves users although the gate is closed", "can nginx's user read /var/lib/dr-agent/public? is the snippet in every server block?";
    WiringMarker        "wiring-marker":             Unhealthy Configuration Closes             Keeps     Never,
        "has a marker that cannot be set", "check the owner and mode of the state directory's `public` and `off`";
    WiringRedirect      "wiring-redirect":           Degraded  Configuration Keeps              Keeps     Never,
        "finds a redirect where a health answer belongs: Route 53 would read it as healthy", "move the server-level redirect into a `location /`";
    WiringFallback      "wiring-fallback":           Degraded  Configuration Keeps              Keeps     Never,
        "finds that nginx cannot reach this agent and answers from the markers", "can nginx's user connect to the public socket? SELinux?";
    WiringForeign       "wiring-foreign-answer":     Degraded  Configuration Keeps              Keeps     Never,
        "finds another page where a health answer belongs", "add `include /etc/nginx/dr-agent.d/*.conf;` to that server block, as its first line";
    WiringHelper        "wiring-helper-silent":      Degraded  Configuration Keeps              Keeps     Never,
        "finds that the root helper does not answer", "see `systemctl status 'dr-agent-helper*'`; are its `.path` units active?";
    WiringCertificate   "wiring-certificate":        Degraded  Configuration Keeps              Keeps     Never,
        "finds that browsers refuse the certificate of the other region's name: after a failover users would be turned away", "renew or correct it there";

    Drill               "drill":                     Unhealthy Fault         ClosesIfPeerPasses AfterHold Never,
        "is taken as failing, for a drill", "`dr-agent drill --end` ends it; it ends by itself too";
    Flapping            "flapping":                  Degraded  Fault         Keeps              Keeps     Never,
        "fails and recovers again and again", "see `dr-agent history` for the rhythm";
    CouldNotRun         "could-not-run":             Unknown   Probe         Keeps              Holds     Never,
        "could not be probed", "the probe itself failed: see the detail and the agent's log";
    Stale               "stale":                     Unknown   Probe         Keeps              Holds     Never,
        "has not been observed lately", "the agent is starved or its probe is stuck: see the agent's log";
}

impl Cause {
    /// The cause's row.
    #[must_use]
    pub const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_stands_at_its_cause() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.cause as usize, index, "{}", row.name);
            assert_eq!(serde_json::to_value(row.cause).unwrap(), row.name);
        }
    }

    #[test]
    fn only_unhealthy_causes_close_or_replace() {
        for row in TABLE.iter().filter(|row| row.status != Status::Unhealthy) {
            assert_eq!(row.instance, OnInstance::Keeps, "{}", row.name);
            assert!(matches!(row.region, OnRegion::Keeps | OnRegion::Holds), "{}", row.name);
            assert_eq!(row.replacement, OnReplacement::Never, "{}", row.name);
        }
    }

    use Cause::*;

    /// The contract in words: status, instance, region, replacement, with the causes of each row.
    const CONTRACT: &[(&[Cause], &str, &str, &str, &str)] = &[
        (&[NginxRefused, NginxMasterGone], "unhealthy", "503", "capacity rule", "yes, after the repair ladder"),
        (&[NginxTimeout, NginxBadStatus], "unhealthy", "503", "capacity rule", "after the ladder"),
        (&[NginxForeignAnswer], "degraded, class `configuration`", "200", "no", "no"),
        (
            &[AppUnreachable, AppTimeout, AppBadStatus, AppBadAnswer, AppBodyMismatch],
            "unhealthy",
            "503 iff a peer passes",
            "capacity rule",
            "never",
        ),
        (
            &[EfsNotMounted, EfsWrongSource, EfsHung],
            "unhealthy",
            "503 iff a peer passes",
            "after hold, if no peer passes",
            "LOCAL only",
        ),
        (&[EfsProxyGone], "unhealthy", "503", "-", "LOCAL, after remount ladder"),
        (&[EfsStaleHandle], "degraded, re-open once", "200", "no", "no"),
        (&[EfsReadOnly], "degraded, class `configuration` (hint: end the EFS replication)", "200", "no", "no"),
        (
            &[
                EfsNoPermission,
                EfsQuota,
                EfsNoDirectory,
                DatabaseNoSchema,
                DatabaseAccessDenied,
                DatabaseNoRight,
                DatabaseTls,
            ],
            "degraded, class `configuration`",
            "200",
            "no",
            "no",
        ),
        // What was found before the server was asked says nothing of it.
        (
            &[DatabaseUnknownHost, DatabaseTlsFile, DatabaseNoPassword],
            "degraded, class `configuration`",
            "200",
            "holds",
            "no",
        ),
        (&[DatabaseTooMany, DatabaseHostBlocked, DatabaseSlow, DatabaseLag], "degraded", "200", "no", "no"),
        (
            &[DatabaseRefused, DatabaseTimeout, DatabaseUnreachable, DatabaseLost],
            "unhealthy",
            "503 iff a peer passes",
            "after hold",
            "LOCAL only",
        ),
        (&[DatabaseReadOnly], "unhealthy", "200", "by role", "no"),
        (&[DiskFull, DiskReadOnly], "unhealthy", "503", "capacity rule", "yes"),
        (&[CouldNotRun], "unknown", "200", "holds", "no"),
        (&[ExecCritical, MemoryPressure, IoPressure], "degraded", "200", "no", "no"),
        (&[WiringFenceOpen, WiringMarker], "unhealthy", "503", "no", "never"),
        (
            &[WiringRedirect, WiringFallback, WiringForeign, WiringHelper, WiringCertificate],
            "degraded",
            "200",
            "no",
            "no",
        ),
        // What the probes tell apart more finely.
        (&[AppSlow, EfsSlow, DiskNearlyFull, Flapping], "degraded", "200", "no", "no"),
        (&[ExecWarning, ExecTimeout], "degraded", "200", "no", "no"),
        (&[ExecNotTrusted], "degraded, class `configuration`", "200", "no", "no"),
        (&[EfsServerUnreachable, EfsIoError], "unhealthy", "503 iff a peer passes", "after hold", "LOCAL only"),
        (&[DatabaseNotMysql, DatabaseError], "unhealthy", "503 iff a peer passes", "after hold", "LOCAL only"),
        (&[DiskNoInodes], "unhealthy", "503", "capacity rule", "yes"),
        (&[Stale], "unknown", "200", "holds", "no"),
        (&[Drill], "unhealthy", "503 iff a peer passes", "after hold", "never"),
    ];

    #[test]
    fn the_table_is_the_contract() {
        for &(causes, status, instance, region, replacement) in CONTRACT {
            for row in causes.iter().map(|cause| cause.row()) {
                let name = row.name;
                assert_eq!(status.split(',').next(), Some(row.status.name()), "{name}: status");
                let configuration = status.contains("`configuration`");
                assert!(!configuration || row.class == Class::Configuration, "{name}: class");
                let own_instance = match row.instance {
                    OnInstance::Keeps => "200",
                    OnInstance::Closes => "503",
                    OnInstance::ClosesIfPeerPasses => "503 iff a peer passes",
                };
                assert_eq!(instance, own_instance, "{name}: instance");
                let own_region: &[&str] = match row.region {
                    OnRegion::Keeps => &["no", "-", "by role"],
                    OnRegion::Capacity => &["capacity rule"],
                    OnRegion::AfterHold => &["after hold", "after hold, if no peer passes"],
                    OnRegion::Holds => &["holds"],
                };
                assert!(own_region.contains(&region), "{name}: region");
                let own_replacement: &[&str] = match row.replacement {
                    OnReplacement::Never => &["no", "never"],
                    OnReplacement::LocalOnly => &["LOCAL only"],
                    // Local, or master gone.
                    OnReplacement::AfterLadder => &["yes, after the repair ladder"],
                    OnReplacement::LocalAfterLadder => {
                        &["yes, after the repair ladder", "after the ladder", "LOCAL, after remount ladder"]
                    }
                    OnReplacement::Yes => &["yes"],
                };
                assert!(own_replacement.contains(&replacement), "{name}: replacement");
            }
        }
        let listed: Vec<_> = CONTRACT.iter().flat_map(|(causes, ..)| causes.iter()).collect();
        for row in TABLE {
            assert_eq!(listed.iter().filter(|cause| ***cause == row.cause).count(), 1, "{} is listed once", row.name);
        }
    }

    #[test]
    fn only_a_master_that_is_gone_skips_attribution() {
        let skips = |row: &&Row| row.replacement == OnReplacement::AfterLadder;
        assert_eq!(TABLE.iter().filter(skips).map(|row| row.cause).collect::<Vec<_>>(), [NginxMasterGone]);
    }

    #[test]
    fn every_cause_has_a_name_words_and_a_hint_of_its_own() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
        for row in TABLE {
            assert!(row.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", row.name);
            assert!(!row.words.is_empty() && !row.hint.is_empty(), "{}", row.name);
        }
    }
}
