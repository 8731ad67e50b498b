#!/usr/bin/env bash
# Seals the machine, and says whether an image may be made of it. Run by root, as the last script: it takes away the key
# by which the builder logged in. Ends with something other than 0 when the image must not be made.
set -euo pipefail

problems=0
complain() {
    printf 'gate: %s\n' "$*" >&2
    problems=$((problems + 1))
}

# What would write again after it was removed. A bootstrap that is at it, or waits for its next attempt, is not `active`;
# one that is stopped half-way has failed, which starts the next one.
for unit in dr-agent-bootstrap.service dr-agent-bootstrap-retry.service dr-agent.service; do systemctl stop "$unit"; done
for unit in amazon-ssm-agent.service systemd-random-seed.service; do
    if systemctl is-active --quiet "$unit"; then systemctl stop "$unit"; fi
done
journalctl --relinquish-var

dr-agent bootstrap --seal || complain "dr-agent bootstrap --seal ends with $?"

# The agent's word on it, and, beside it, a look that shares nothing with the program that sealed.
dr-agent check --offline || complain "dr-agent check --offline ends with $?"

shopt -s nullglob
[[ ! -s /etc/machine-id ]] || complain '/etc/machine-id has a value'
for file in /etc/ssh/ssh_host_* /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys /root/.aws/* /home/*/.aws/* \
    {/root,/home/*}/{.my.cnf,.mylogin.cnf,.netrc,.git-credentials} {/root,/home/*}/.ssh/id_* \
    /var/log/journal/* /var/lib/cloud/instance* /etc/dr-agent/*.key /etc/dr-agent/*.password /etc/dr-agent/.new-* \
    /etc/dr-agent/region; do
    [[ ! -e $file ]] || complain "$file is still there"
done
while IFS= read -r file; do
    complain "$file is still there"
done < <(find /var/lib/dr-agent /var/lib/dr-agent-helper -type f 2>/dev/null || true)
# A key or a password in a configuration file.
if grep -rlE -e '-----BEGIN [A-Z ]*PRIVATE KEY-----' /etc/dr-agent; then complain 'there is a private key in /etc/dr-agent'; fi
if systemctl is-active --quiet dr-agent; then complain 'the agent runs'; fi

if ((problems)); then
    printf 'gate: no image: %d problems\n' "$problems" >&2
    exit 1
fi
printf 'gate: this machine may become an image\n'
