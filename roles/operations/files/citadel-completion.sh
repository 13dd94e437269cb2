# Completion of the command citadel in login shells.
if [ -n "${BASH_VERSION-}" ]; then
    . /usr/share/bash-completion/completions/citadel
fi
