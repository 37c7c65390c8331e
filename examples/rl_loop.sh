#!/usr/bin/env bash
# An RL loop that can be interrupted at any point: run it again to resume.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

iterations=${ITERATIONS:-3}
for iteration in $(seq -f "%03g" 1 "$iterations"); do
    rollouts=$outputs/rl_iter_${iteration}.jsonl
    trained=$outputs/rl_iter_${iteration}.trained
    if [ -e "$trained" ]; then
        continue
    fi

    # Up to 1 % failed rollouts still give exit code 0; any other exit code ends the loop.
    ng_collect_rollouts \
        +agent_name="$agent" \
        +input_jsonl_fpath="$tasks" \
        +output_jsonl_fpath="$rollouts" \
        +responses_create_params.temperature=0.8 \
        +num_repeats=8 +num_samples_in_parallel=32 +limit="${LIMIT:-20}" \
        +max_failed_rollouts=0.01 \
        +resume_from_cache=true \
        > "$outputs/rl_iter_${iteration}.log"
    echo "iteration $iteration: $(tail -n 4 "$outputs/rl_iter_${iteration}.log" | tr -d '\n')"

    # train_policy "$rollouts"   <- put your trainer here
    touch "$trained"
done
