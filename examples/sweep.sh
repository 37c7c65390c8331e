#!/usr/bin/env bash
# Sweep over temperatures: collect one run for each, then print its mean rewards and the diversity of its completions.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

ng_collect_rollouts -m \
    +agent_name="$agent" \
    +input_jsonl_fpath="$tasks" \
    +num_repeats=4 +limit="${LIMIT:-50}" +overwrite=true +quiet=true \
    responses_create_params.temperature="${TEMPERATURES:-0.2,0.5,0.9}" \
    "output_jsonl_fpath='$outputs/sweep_\${responses_create_params.temperature}.jsonl'" > "$outputs/sweep.log"

for summary in "$outputs"/sweep_*_summary.json; do
    rollouts=${summary%_summary.json}.jsonl
    echo "$(basename "$rollouts"): $(jq -c .means "$summary"), $(ng_reward_profile +rollouts_jsonl_fpath="$rollouts" +top=0 | grep completions:)"
done
