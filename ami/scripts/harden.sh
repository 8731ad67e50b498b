#!/usr/bin/env bash
# Closes what a web instance does not need. Run by root after install.sh. That the metadata service takes version 2 only
# is a property of the image and of the launch template: see publish.sh and README.md.
set -euo pipefail

# Keys only, and not root's. The first file that names a setting counts, so this one comes before the others.
install -d -m 0755 /etc/ssh/sshd_config.d
cat >/etc/ssh/sshd_config.d/10-dr-agent.conf <<'END'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitEmptyPasswords no
PermitRootLogin no
X11Forwarding no
END
chmod 0600 /etc/ssh/sshd_config.d/10-dr-agent.conf
# cloud-init writes a file of its own at the first boot.
if [[ -d /etc/cloud/cloud.cfg.d ]]; then
    printf 'ssh_pwauth: false\ndisable_root: true\n' >/etc/cloud/cloud.cfg.d/10-dr-agent.cfg
fi
sshd -t

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
