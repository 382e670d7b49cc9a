"""`python -m localdev.host [--app DIR] [--port 7071]`: run a function app on this machine."""

if __name__ == "__main__":
    from localdev.interrupt import exit_at_once
    from localdev.packages import needing_packages

    exit_at_once()  # the imports below take a second

    with needing_packages("python -m localdev.host"):
        from localdev.host.command import main

    main()
