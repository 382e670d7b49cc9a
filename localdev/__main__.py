"""`python -m localdev`: run the app on this machine, without an account. `--help` lists the commands."""

if __name__ == "__main__":
    from localdev.interrupt import exit_at_once
    from localdev.packages import needing_packages

    exit_at_once()  # the imports below take a second

    with needing_packages("python -m localdev"):
        from localdev.cli.main import main

    main()
