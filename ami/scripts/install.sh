#!/usr/bin/env bash
# Puts nginx, efs-utils and the agent on an Amazon Linux 2023 machine that becomes an image. Run by root, with
#   RPM     the agent's package
#   CONFIG  its configuration
# Nothing is started: the image's instances start it.
set -euo pipefail

: "${RPM:?the path of the package}"
: "${CONFIG:?the path of agent.toml}"

bundle=/etc/dr-agent/rds-global-bundle.pem

dnf --assumeyes --quiet upgrade --refresh
# awscli-2 fetches the secret at boot; the stream module is for the output `proxy`.
dnf --assumeyes --quiet install nginx nginx-mod-stream amazon-efs-utils awscli-2
dnf --assumeyes --quiet install "$RPM"

install -D -m 0644 -o root -g root "$CONFIG" /etc/dr-agent/agent.toml
dr-agent config check

# The authorities of RDS, of all regions.
curl --fail --silent --show-error --location --max-time 60 --output "$bundle.new" \
    https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
grep -q 'BEGIN CERTIFICATE' "$bundle.new"
chmod 0644 "$bundle.new"
mv "$bundle.new" "$bundle"

# Amazon Linux's own server block includes this folder. A site of your own includes the agent's files in each block.
install -d -m 0755 /etc/nginx/default.d
printf 'include /etc/nginx/dr-agent.d/*.conf;\n' >/etc/nginx/default.d/dr-agent.conf
nginx -t -q

systemctl enable --quiet nginx dr-agent dr-agent-bootstrap dr-agent-gate
rm -f "$RPM" "$CONFIG"
