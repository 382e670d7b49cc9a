"""`python -m localdev demo | start | tick | secret`: run the app on this machine, without an account."""

if __name__ == "__main__":
    from localdev.interrupt import exit_at_once

    exit_at_once()  # the imports below take a second

    from localdev.cli import main

    main()
