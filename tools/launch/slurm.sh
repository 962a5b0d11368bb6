#!/bin/bash
# Trains a recipe on the nodes of a Slurm allocation, and goes on after whatever happens to it.
#
#   sbatch --nodes=16 tools/launch/slurm.sh configs/palm_8b.py --out /shared/runs/palm_8b
#
# What follows the script's name is given to `pathways-lite train` on every node; JAX finds out from Slurm who is who.
# The working directory, the corpus and the run directory must be on a file system that all nodes share.
#
# On GPUs JAX wants one task for each: sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 tools/launch/slurm.sh ...
#
#SBATCH --job-name=pathways-lite
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Two minutes before the time is up all tasks get SIGTERM: they save and end, and the job queues again.
#SBATCH --signal=TERM@120

set -u
retries=${RETRIES:-10}
command=${PATHWAYS_LITE:-.venv/bin/pathways-lite}

for ((attempt = 0; attempt <= retries; attempt++)); do
    # One failed process ends all: none of them could take another step.
    srun --kill-on-bad-exit=1 "$command" train "$@"
    status=$?
    case $status in
    0) exit 0 ;;
    2) exit 2 ;; # a mistake that only a person can correct; it was told
    130 | 143) exec scontrol requeue "$SLURM_JOB_ID" ;; # a signal: the state is saved
    esac
    echo "attempt $((attempt + 1)) ended with status $status (75: it hung); from the newest checkpoint again" >&2
done
exit "$status"
