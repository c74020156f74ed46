# Sourced by slurm.sbatch and slurm_task.sh: the trainer's exit statuses, and how srun is told of them.
# shellcheck shell=bash disable=SC2034

WRONG_INPUT=2
AGAIN=75
# SIGTERM before the trainer listens, while Python still imports: nothing is lost, and the node is wanted all the same.
STOPPED_EARLY=143

# srun returns the highest status of its tasks, so the one that decides must be the highest: a crash must not hide behind
# the 75 of processes that lost a peer, nor wrong input behind a crash. A task that is killed with its shell is 128 + signal.
CRASH_FIRST=201
WRONG_INPUT_FIRST=202
