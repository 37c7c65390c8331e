"""`python -m ng_rollouts`: the collecting command."""

from ng_rollouts.cli.collect import main

if __name__ == "__main__":
    main()
