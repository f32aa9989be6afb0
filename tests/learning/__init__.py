"""Learning tests: small tasks, what is asked of the agent on each, and a script to run one of them by hand."""
