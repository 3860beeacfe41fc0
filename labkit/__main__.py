"""`python -m labkit` is `labkit`."""

from labkit.cli.app import main

if __name__ == "__main__":
    main()
