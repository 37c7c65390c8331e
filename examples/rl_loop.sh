#!/usr/bin/env bash
# An RL loop that can be interrupted at any point: run it again to resume.
# usage: TRAIN=./my_trainer AGENT=my_agent TASKS=tasks.jsonl examples/rl_loop.sh
set -euo pipefail
source "$(dirname "$0")/environment.sh"

iterations=${ITERATIONS:-3}
temperature=${TEMPERATURE:-0.8}

# One training step on the rollouts of an iteration. $TRAIN is your trainer, a command that reads the file and updates the
# model of the agent. Without one, a stand-in for a trainer lowers the temperature of the next iteration: the example
# agents cannot learn, but they make fewer mistakes at a lower temperature.
train_policy() {
    if [ -n "${TRAIN:-}" ]; then
        "$TRAIN" "$1"
    elif [[ $agent == example_* ]]; then
        temperature=$(awk -v before="$temperature" 'BEGIN { printf "%.2f", 0.6 * before }')
    fi
}

for iteration in $(seq -f "%03g" 1 "$iterations"); do
    rollouts=$outputs/rl_iter_${iteration}.jsonl
    trained=$outputs/rl_iter_${iteration}.trained
    if [ -s "$trained" ]; then
        temperature=$(cat "$trained")
        continue
    fi

    # Up to 1 % failed rollouts still give exit code 0; any other exit code ends the loop.
    ng_collect_rollouts \
        +agent_name="$agent" \
        +input_jsonl_fpath="$tasks" \
        +output_jsonl_fpath="$rollouts" \
        +responses_create_params.temperature="$temperature" \
        +num_repeats=8 +num_samples_in_parallel=32 +limit="${LIMIT:-20}" \
        +max_failed_rollouts=0.01 \
        +resume_from_cache=true \
        > "$outputs/rl_iter_${iteration}.log"
    means=$(jq -c '.means | map_values(if . then . * 1e3 | round / 1e3 else . end)' "${rollouts%.jsonl}_summary.json")
    echo "iteration $iteration at temperature $temperature: $means"

    train_policy "$rollouts"
    # This marks the iteration as done. A loop that is started again reads the temperature of the next one here.
    echo "$temperature" > "$trained.tmp"
    mv "$trained.tmp" "$trained"
done
