"""`python -m cli`, which is `threestage`: DVC's stages start it, with the code of their own folder."""

from cli.main import main

if __name__ == "__main__":
    main()
