# shellcheck shell=bash
# For the examples' scripts, which go to the repository's root: source this before.

from_here() { # a path that stays right after cd
    case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}
