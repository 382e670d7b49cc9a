"""`python -m localdev.host [--app DIR] [--port 7071]`: run a function app on this machine."""

if __name__ == "__main__":
    from localdev.interrupt import exit_at_once

    exit_at_once()  # the imports below take a second

    from localdev.host.command import main

    main()
