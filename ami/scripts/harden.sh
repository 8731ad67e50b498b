#!/usr/bin/env bash
# Closes what a web instance does not need. Run by root after install.sh. That the metadata service takes version 2 only
# is a property of the image and of the launch template: see publish.sh and README.md.
set -euo pipefail

# Keys only, and not root's. The first file that names a setting counts, so this one comes before the others.
install -d -m 0755 /etc/ssh/sshd_config.d
settings=/etc/ssh/sshd_config.d/10-dr-agent.conf
cat >"$settings" <<'END'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitEmptyPasswords no
PermitRootLogin no
X11Forwarding no
END
chmod 0600 "$settings"
# cloud-init writes a file of its own at the first boot.
if [[ -d /etc/cloud/cloud.cfg.d ]]; then
    printf 'ssh_pwauth: false\ndisable_root: true\n' >/etc/cloud/cloud.cfg.d/10-dr-agent.cfg
fi
# Not what is written counts, but what is in force: another file may come first, and this folder may not be read at all.
in_force=$(sshd -T)
problems=0
while read -r setting; do
    if ! grep -qixF "$setting" <<<"$in_force"; then
        name=${setting%% *}
        printf 'harden: sshd has in force "%s", not "%s" of %s: take it out of the file that comes first (grep -ri %s /etc/ssh), or include that folder at the top of sshd_config\n' \
            "$(grep -i "^$name " <<<"$in_force" || printf 'nothing')" "$setting" "$settings" "$name" >&2
        problems=$((problems + 1))
    fi
done <"$settings"
((problems == 0)) || exit 1

# No account has a password, so none can be guessed on a console either.
while IFS=: read -r user password _; do
    case $password in
        '!'* | '*'*) ;;
        *) usermod --lock "$user" ;;
    esac
done </etc/shadow

# The journal outlives a reboot, and does not fill the disk.
install -d -m 0755 /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=persistent\nSystemMaxUse=500M\n' >/etc/systemd/journald.conf.d/10-dr-agent.conf
