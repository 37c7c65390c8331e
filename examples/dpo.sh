#!/usr/bin/env bash
# DPO: collect three rollouts per task, then export pairs of the best and the second best.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

ng_collect_rollouts \
    +agent_name="$agent" \
    +input_jsonl_fpath="$tasks" \
    +output_jsonl_fpath="$outputs/dpo_rollouts.jsonl" \
    +sampling=dpo +num_samples_in_parallel=10 +limit="${LIMIT:-100}" +resume_from_cache=true

ng_export_rollouts +recipe=dpo \
    +input_jsonl_fpath="$outputs/dpo_rollouts.jsonl" \
    +output_jsonl_fpath="$outputs/dpo_pairs.jsonl" \
    +pairing=best_second +min_reward_gap=0.15 +overwrite=true
