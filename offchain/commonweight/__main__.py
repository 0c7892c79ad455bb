"""``python -m commonweight``."""

from commonweight.cli.main import main

if __name__ == "__main__":
    main()
