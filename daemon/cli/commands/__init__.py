"""What the commands look like: their names, options, arguments and help texts, one file per topic.

`daemon.cli.main` adds every command that a module here defines. A module imports click and `daemon.cli.arguments` at
its top and nothing else of ours, so that `donationd --help` takes no longer than it must; what a command does stands in
the module of the same name in `daemon.cli`, which is imported when the command runs.
"""
