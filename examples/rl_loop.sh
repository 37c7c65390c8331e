#!/usr/bin/env bash
# An RL loop that may be interrupted anywhere: start it again and it goes on where it stopped.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

iterations=${ITERATIONS:-3}
for iteration in $(seq -f "%03g" 1 "$iterations"); do
    rollouts=$outputs/rl_iter_${iteration}.jsonl
    trained=$outputs/rl_iter_${iteration}.trained
    if [ -e "$trained" ]; then
        continue
    fi

    # Exit 1 (some rollouts failed) is tolerated up to one in a hundred; anything else ends the loop.
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

    # train_policy "$rollouts"   <- your trainer goes here
    touch "$trained"
done
