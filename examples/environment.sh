# Sourced by the other scripts: puts the project's commands on the PATH, and installs them first if they are missing.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v ng_export_rollouts > /dev/null; then
    scripts/venv
    PATH="$PWD/.venv/bin:$PATH"
fi
cd - > /dev/null
here=$(dirname "${BASH_SOURCE[0]}")
agent=${AGENT:-example_math_agent}
tasks=${TASKS:-$here/arithmetic.jsonl}
outputs=${OUTPUTS:-outputs}
mkdir -p "$outputs"
