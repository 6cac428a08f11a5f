#!/usr/bin/env bash
# What a running service must pass before it is relied on; exit status 0 only if all of it holds.
#
#   TILLSYNC_SERVICE_ADDRESS=sync.example.com:443 TILLSYNC_OPERATOR_TOKEN=… \
#   METRICS_URL=http://127.0.0.1:7071/metrics P95_MS=500 ERROR_RATE=0.001 deploy/gates.sh FOLDER
#
# FOLDER gets what was seen: smoke.json, loadtest.json, metrics.txt. It works in disposable tenants
# and removes them. The PATH must have the service's program.
set -euo pipefail
folder=${1:?the folder for what is seen}
here=$(dirname "$0")
mkdir -p "$folder"

echo "health" >&2
tillsync-service health --timeout 10

echo "smoke" >&2
tillsync-service smoke --json > "$folder/smoke.json" || {
  cat "$folder/smoke.json"
  exit 1
}

# Its exit status would allow no failure at all; how many are allowed is decided below.
echo "load test" >&2
tillsync-service loadtest --total "${TOTAL:-2000}" --unique "${UNIQUE:-400}" \
  --concurrency "${CONCURRENCY:-50}" > "$folder/loadtest.json" || true

# Before anything is decided: it tells why.
echo "metrics" >&2
curl --fail --silent --show-error --max-time 10 --output "$folder/metrics.txt" "${METRICS_URL:?}"

python3 "$here/../tools/load_gate.py" --p95-ms "${P95_MS:?}" --error-rate "${ERROR_RATE:?}" \
  < "$folder/loadtest.json"
