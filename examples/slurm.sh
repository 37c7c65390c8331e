#!/usr/bin/env bash
#SBATCH --job-name=rollouts
#SBATCH --array=0-15
#SBATCH --time=12:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@120
# Collect one shard per job of an array: sbatch examples/slurm.sh
# Two minutes before its time limit or a preemption, a job drains its rollouts in flight and requeues itself. The
# requeued job resumes. When all jobs are done, merge the shards:
#   ng_aggregate_rollouts +input_glob="outputs/rollouts_shard_*.jsonl" +output_jsonl_fpath=outputs/rollouts.jsonl
set -uo pipefail

ng_collect_rollouts +shard_from=slurm \
    +agent_name="${AGENT:-example_math_agent}" \
    +input_jsonl_fpath="${TASKS:-examples/arithmetic.jsonl}" \
    +output_jsonl_fpath="${OUTPUTS:-outputs}/rollouts.jsonl" \
    +num_repeats="${REPEATS:-4}" +num_samples_in_parallel=256 \
    +resume_from_cache=true +drain_s=90 &
collector=$!

# the shell's `wait` returns as soon as a trapped signal arrives, hence the second `wait` below
ended_early=
trap 'ended_early=yes; kill -USR2 "$collector"' USR2
wait "$collector"
code=$?
if [ -n "$ended_early" ]; then
    wait "$collector"
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    exit 0
fi
exit "$code"
