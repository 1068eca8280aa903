#!/usr/bin/env bash
# A run in tmux that goes on when you leave: start_tmux.sh TASK_ID… [KEY]
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
Usage: start_tmux.sh TASK_ID… [KEY]

Opens the tmux session `inpaint-eacps` with three windows: `pipeline` (the run), `gpus` (nvidia-smi, or what the device
workers use), `logs` (of every process). Ctrl-b d leaves it running; `tmux attach -t inpaint-eacps` comes back.

Set GEMINI_API_KEY rather than giving KEY: what is typed stays in the shell's history. As KEY counts a last argument
that begins with `AIza` or `AQ.` or has 30 characters or more; everything else is a task.

Environment: TASKS=EXPORT.json (else ./project-label.json), SESSION (the session's name), RUN_ARGS (more flags of
`inpaint-eacps run`), and all that inpaint-eacps itself reads.
TEXT
    exit 2
}

die() {
    printf 'Error: %s\n' "$1" >&2
    exit 2
}

[[ $# -gt 0 && $1 != -h && $1 != --help ]] || usage
last=${!#}
if [[ $# -gt 1 && ($last == AIza* || $last == AQ.* || ${#last} -ge 30) ]]; then
    # Once more without it, so that `ps` does not show it.
    GEMINI_API_KEY=$last exec bash "${BASH_SOURCE[0]}" "${@:1:$#-1}"
fi
for task in "$@"; do
    [[ $task =~ ^[A-Za-z0-9._-]{1,64}$ ]] || die "\`$task\` is no task id: letters, digits, dot, hyphen and underscore."
done
command -v tmux >/dev/null || die "tmux is not installed; \`inpaint-eacps run\` does the same without it."

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[[ -x $python ]] || python=$(command -v python3) || die "there is no Python; run \`make install\` first."
session=${SESSION:-inpaint-eacps}
tmux has-session -t "=$session" 2>/dev/null &&
    die "a session $session is there: \`tmux attach -t $session\`, or another name with SESSION=…"

cache=$(PYTHONPATH=$root "$python" -m inpaint_eacps config show --json |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["input.cache_dir"]["value"])')
read -r -a more <<<"${RUN_ARGS:-}"
run=("$python" "$root/inpaint_eacps/run.py" ${TASKS:+--tasks "$TASKS"} "${more[@]}" "$@")

# A shell command as one word, for tmux to hand to a shell.
script() {
    printf '%q ' bash -c "$@"
}

pipeline='"$@"; echo "The run ended with exit code $?."; exec "${SHELL:-bash}"'

gpus='while :; do
    shown=$(nvidia-smi 2>/dev/null) || shown=$(
        echo "There is no NVIDIA GPU. Device workers on the CPU:"
        ps -eo pid=,pcpu=,rss=,etime=,args= | awk '"'"'
            BEGIN { printf "%8s %6s %8s %10s  %s\n", "pid", "cpu %", "MB", "time", "device" }
            /inpaint_eacps.child .*device\./ { n = split($NF, path, "/"); sub(/\.json$/, "", path[n])
                printf "%8d %6.1f %8.0f %10s  %s\n", $1, $2, $3 / 1024, $4, path[n] }'"'"')
    clear
    date
    printf "%s\n" "$shown"
    sleep 2
done'

logs='until newest=$(find "$1/runs" -path "*/logs/score.log" -newer "$2" 2>/dev/null | sort | tail -n 1) && [ "$newest" ]; do
    [ "${told:-}" ] || echo "Waiting for logs in $1/runs; on a cluster they are where its workers are."
    told=yes
    sleep 0.5
done
rm -f "$2"
cd "${newest%/*}" && exec tail -n +1 -F ./*.log'

# The pipeline's window comes last: what it inherits is known only when there is a session to keep it, since a tmux
# server that runs already has an environment of its own. It is told by stdin, so that no list of processes shows a key.
started=$(mktemp)
tmux new-session -d -s "$session" -n logs -c "$PWD" "$(script "$logs" logs "$cache" "$started")"
while IFS='=' read -r -d '' name value; do
    case $name in
    INPAINT_EACPS_* | GEMINI_* | GOOGLE_API_KEY | MOONDREAM_* | LABEL_STUDIO_* | AWS_* | HF_* | CUDA_* | PYTHON* | *_proxy | *_PROXY | PATH)
        printf "set-environment -t '=%s' %s '%s'\n" "$session" "$name" "${value//\'/\'\\\'\'}"
        ;;
    esac
done < <(env -0) | tmux source-file -
tmux new-window -t "=$session:" -n gpus -c "$PWD" "$(script "$gpus")"
tmux new-window -t "=$session:" -n pipeline -c "$PWD" "$(script "$pipeline" pipeline "${run[@]}")"
tmux swap-window -d -s "=$session:pipeline" -t "=$session:logs"
tmux select-window -t "=$session:pipeline"

if [[ -t 0 && -t 1 && -z ${TMUX:-} && -z ${NO_ATTACH:-} ]]; then
    exec tmux attach-session -t "=$session"
fi
echo "Started. tmux attach -t $session"
