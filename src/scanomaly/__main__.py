"""`python -m scanomaly`: the command line where its script is not on the path."""

from scanomaly.cli import main

if __name__ == "__main__":
    main()
