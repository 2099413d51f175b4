# shellcheck shell=bash
# What every shell of a node has to know before Ray starts there; ~/.bashrc of the nodes sources it.
export PATH="$HOME/metabench-venv/bin:$PATH"
export METABENCH_DATA="$HOME/metabench-data"
export METABENCH_CACHE="$HOME/metabench-cache"
# Said outright, so that a node without the token fails instead of standing open.
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
