#!/usr/bin/env bash
# Install what apt.txt names where that is ours to do (root on Debian); elsewhere say what is missing.
set -eu
missing=()
while read -r package; do
  [ -n "$package" ] || continue
  command -v "$package" >/dev/null 2>&1 || missing+=("$package")
done < <(sed 's/#.*//' apt.txt)
[ "${#missing[@]}" -gt 0 ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null && exit 0
fi
echo "not installed: ${missing[*]} (only the browser test needs it, and is skipped without)"
