# Completion of palm-cli for bash: source <(palm-cli completion bash)

_palm_cli() {
    local line=${COMP_LINE:0:COMP_POINT} words word prefix candidates
    read -ra words <<<"$line"
    # The word that is being typed may be empty.
    [[ $line == *[[:space:]] ]] && words+=('')
    word=${words[-1]}
    # bash replaces only what follows the last `=` or `:`.
    prefix=${word%"${word##*[=:]}"}
    mapfile -t candidates < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null | cut -f 1)
    COMPREPLY=("${candidates[@]#"$prefix"}")
}

complete -o default -F _palm_cli palm-cli
