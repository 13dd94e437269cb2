# Completion of the command citadel: the command itself knows its words.
_citadel() {
    local IFS=$'\n'
    # shellcheck disable=SC2207 # one word a line, split at line ends alone
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _CITADEL_COMPLETE=complete_bash "$1" 2>/dev/null))
}
complete -o default -F _citadel citadel
