"""`python -m ng_rollouts`: the command that collects rollouts."""

from ng_rollouts.cli.collect import main

if __name__ == "__main__":
    main()
