"""What the commands look like: their names, options, arguments and help texts, one file per topic.

`daemon.cli.main` adds every command that a module here defines. A module imports click and `daemon.cli.arguments` at
its top and nothing else of donationd, so that `donationd --help` is quick; what a command does stands in
the module of the same name in `daemon.cli`, which is imported when the command runs.
"""
