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
# Two minutes before the time is up, this shell gets SIGTERM and passes it on: the tasks save, and the job queues again.
#SBATCH --signal=B:TERM@120

set -u
retries=${RETRIES:-10}
command=${PATHWAYS_LITE:-.venv/bin/pathways-lite}
time_is_up=false
trap 'time_is_up=true; scancel --signal=TERM "$SLURM_JOB_ID"' TERM

for ((attempt = 1; attempt <= retries + 1; attempt++)); do
    # One failed process ends all: none of them could take another step.
    srun --kill-on-bad-exit=1 "$command" train "$@" &
    wait $!
    status=$?
    while kill -0 $! 2>/dev/null; do # the trap has interrupted the waiting
        wait $!
        status=$?
    done
    [ $status = 0 ] && exit 0
    [ $status = 2 ] && exit 2 # a mistake that only a person can correct; it was told
    $time_is_up && exec scontrol requeue "$SLURM_JOB_ID"
    echo "attempt $attempt ended with status $status (75: try again); once more from the newest checkpoint" >&2
done
exit $status
