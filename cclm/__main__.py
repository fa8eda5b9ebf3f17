"""`python -m cclm` is the same as the `cclm` command."""

from cclm.cli.main import main

if __name__ == "__main__":
    main()
