#!/usr/bin/env bash
# A search on the nodes of one Slurm job, which asks to be run again until the search is done:
#
#   sbatch cluster/slurm.sh SPACE.yaml --out /shared/runs
#
# What follows the script goes to `metabench search`. cluster/README.md says more.
#SBATCH --job-name=metabench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
#SBATCH --output=metabench-%j.log
#SBATCH --open-mode=append
set -euo pipefail

say() { echo "slurm.sh: $*" >&2; }

if [ $# -eq 0 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
  say "nothing to do; run: sbatch cluster/slurm.sh SPACE.yaml --out SHARED_FOLDER"
  exit 2
fi

# The environment of `make setup`; METABENCH_VENV names another one.
venv=${METABENCH_VENV:-${SLURM_SUBMIT_DIR:-$PWD}/.venv}
if [ ! -x "$venv/bin/ray" ]; then
  say "$venv/bin/ray is not there: submit from the checkout after \`make setup\`, or set METABENCH_VENV"
  exit 2
fi
export PATH="$venv/bin:$PATH"

# Jobs that share a node must not share a cluster: ports from the job's number, below those that Linux hands out,
# a folder and a token of its own. The folder's name is short, since Ray puts sockets deep into it.
port=${METABENCH_PORT:-$((20000 + SLURM_JOB_ID % 6000))}
export RAY_TMPDIR="/tmp/mb$SLURM_JOB_ID"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
unset RAY_ADDRESS RAY_AUTH_TOKEN_PATH

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
nodes=${SLURM_JOB_NUM_NODES:-1}
cpus=${SLURM_CPUS_PER_TASK:-1}
# The name of a node may lead to its own loopback address there, which the others cannot reach.
ip=$(getent ahostsv4 "$head" | awk '!ip && $1 !~ /^127\./ {ip = $1} END {print ip}') || ip=
[ -n "$ip" ] || ip=$(hostname -I | awk '{print $1}')
if [ -z "$ip" ]; then
  say "$head has no address that other nodes could reach"
  exit 1
fi
address="$ip:$port"

search='' cancelled='' signals=0
steps=()

# Slurm sends USR1 before the time is over, and TERM when the job is cancelled. The search stops cleanly on both.
# shellcheck disable=SC2329  # traps call it
pass_on() {
  signals=$((signals + 1))
  [ "$1" != TERM ] || cancelled=yes
  [ -z "$search" ] || kill -s "$1" "$search" 2>/dev/null || true
}
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM

# Ends with the steps that this job started, never with `ray stop`, which would end other jobs' Ray as well.
finish() {
  trap '' USR1 TERM
  for step in ${steps[@]+"${steps[@]}"}; do kill -TERM "$step" 2>/dev/null || true; done
  for step in ${steps[@]+"${steps[@]}"}; do wait "$step" || true; done
  if [ "$1" -eq 75 ] && [ -z "$cancelled" ]; then
    say "stopped before the end; asking Slurm to run the job again"
    scontrol requeue "$SLURM_JOB_ID" || say "Slurm refuses; run the same sbatch command again"
  fi
  exit "$1"
}

# One Ray node in a step of its own, as one task a node.
# shellcheck disable=SC2016  # for the shell of the step
node='mkdir -p -m 700 "$RAY_TMPDIR" && test -O "$RAY_TMPDIR" || exit 1
  trap "rm -rf \"$RAY_TMPDIR\"" EXIT
  ray start --block --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 "$@"'
start() {
  local where=$1 count=$2
  shift 2
  srun --export=ALL --overlap --kill-on-bad-exit=0 "$where" --nodes="$count" --ntasks="$count" \
    --ntasks-per-node=1 --cpus-per-task="$cpus" bash -c "$node" node --num-cpus="$cpus" "$@" &
  steps+=($!)
}

# Waits for a condition, unless a step ends or the job is to stop.
await() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$signals" -eq 0 ] || finish 75
    for step in "${steps[@]}"; do
      kill -0 "$step" 2>/dev/null || {
        say "Ray did not start on port $port (see above); METABENCH_PORT sets another port"
        finish 1
      }
    done
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}
# shellcheck disable=SC2329  # await calls both
answers() { (: <"/dev/tcp/$ip/$port") 2>/dev/null; }
# shellcheck disable=SC2329
joined() { [ "$(ray status --address "$address" 2>/dev/null | grep -c '^ [0-9]* node_')" -ge "$nodes" ]; }

start "--nodelist=$head" 1 --head --node-ip-address="$ip" --port="$port" \
  --ray-client-server-port=$((port + 6000)) --include-dashboard=false
await 300 answers || { say "no Ray at $address after 300 s"; finish 1; }
if [ "$nodes" -gt 1 ]; then
  start "--exclude=$head" $((nodes - 1)) --address="$address"
fi
# The search counts the room for trials when it starts.
await 300 joined || say "not all of the $nodes nodes are there after 300 s; going on without the rest"

metabench search "$@" --address "$address" --resume auto &
search=$!
# A signal ends `wait` early: then the search still runs, and is waited for again; 127 says that it was already.
code=127
while :; do
  heard=$signals status=0
  wait "$search" || status=$?
  [ "$status" -ne 127 ] || break
  code=$status
  [ "$heard" -ne "$signals" ] || break
done
finish "$code"
