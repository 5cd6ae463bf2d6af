"""`python tests/bench/select`: see comparison.py."""

from comparison import main

if __name__ == "__main__":
    main()
