"""One file per `fathom plan WORK`, made like a command: NAME, SUMMARY, HELP, add_arguments(parser), run(args).

Imports of fathom.plan stand inside functions, so that `fathom plan --help` answers at once.
"""
