#!/usr/bin/env bash
# Makes the images of a build the ones that new instances start from: `publish.sh [MANIFEST]`, with the AWS CLI and the
# rights ec2:ModifyImageAttribute and ssm:PutParameter. In each region the image gets a name there, /dr-agent/ami, which a
# launch template may have as `resolve:ssm:/dr-agent/ami`; and its instances take version 2 of the metadata service only.
set -euo pipefail

manifest=${1:-manifest.json}
# "ap-south-1:ami-1,us-east-1:ami-2"
images=$(jq --raw-output '.builds[-1].artifact_id' "$manifest")
[[ $images == *:ami-*,*:ami-* ]] || { printf 'publish: %s does not name an image in two regions: %s\n' "$manifest" "$images" >&2; exit 1; }

IFS=, read -ra list <<<"$images"
for entry in "${list[@]}"; do
    region=${entry%%:*} image=${entry#*:}
    aws ec2 modify-image-attribute --region "$region" --image-id "$image" --imds-support v2.0
done
# Only when every copy is as it should be.
for entry in "${list[@]}"; do
    region=${entry%%:*} image=${entry#*:}
    aws ssm put-parameter --region "$region" --name /dr-agent/ami --type String --data-type aws:ec2:image \
        --overwrite --value "$image" >/dev/null
    printf '%s %s\n' "$region" "$image"
done
