#!/usr/bin/env bash
# Makes the images of a build the ones that new instances start from: `publish.sh [--wait SECONDS] [MANIFEST]`, with the AWS
# CLI and the rights ec2:ModifyImageAttribute, ec2:DescribeImages, ssm:PutParameter and ssm:GetParameter. In each region the
# image gets a name there, /dr-agent/ami, which a launch template may have as `resolve:ssm:/dr-agent/ami`; and its instances
# take version 2 of the metadata service only.
#
# Systems Manager accepts a name before it looks at the image, and leaves the name as it was when it does not like what it
# sees. So the names are read again, until they are the new ones or SECONDS (300) are over. Ends with 0 only when they are.
set -euo pipefail

fail() { printf 'publish: %s\n' "$*" >&2; exit 1; }

wait=300
if [[ ${1:-} == --wait ]]; then
    [[ ${2:-} =~ ^[0-9]{1,5}$ ]] || fail "--wait needs a number of seconds, not '${2:-}'"
    wait=$((10#$2))
    shift 2
fi
manifest=${1:-manifest.json}
# "ap-south-1:ami-1,us-east-1:ami-2"
images=$(jq --raw-output '.builds[-1].artifact_id' "$manifest")
[[ $images == *:ami-*,*:ami-* ]] || fail "$manifest does not name an image in two regions: $images"

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
done

error=$(mktemp)
trap 'rm -f "$error"' EXIT
deadline=$((SECONDS + wait))
done_in='' missing=0
for entry in "${list[@]}"; do
    region=${entry%%:*} image=${entry#*:}
    while :; do
        # A name that was never there is made as late as it is changed: not to be found is no error yet.
        found=$(timeout --kill-after=5 30 aws ssm get-parameter --region "$region" --name /dr-agent/ami \
            --query Parameter.Value --output text 2>"$error") || found="unknown ($(tr -s '\n' ' ' <"$error"))"
        [[ $found != "$image" ]] || { done_in+="$region $image"$'\n'; break; }
        if ((SECONDS >= deadline)); then
            printf 'publish: /dr-agent/ami in %s is %s after %s s, and not %s: Systems Manager did not take the image, or is slow\n' \
                "$region" "$found" "$wait" "$image" >&2
            missing=$((missing + 1))
            break
        fi
        sleep 2
    done
done
if ((missing)); then
    [[ -z $done_in ]] || printf 'publish: it is the new one already in: %s\n' "${done_in%$'\n'}" >&2
    fail 'see in those regions whether the image is there and available (aws ec2 describe-images), then run this again'
fi
printf '%s' "$done_in"
