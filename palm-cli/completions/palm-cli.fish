# Completion of palm-cli for fish: palm-cli completion fish | source

function __palm_cli_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    $program __complete $words "$current" 2>/dev/null
end

complete -c palm-cli -f -a '(__palm_cli_complete)'
complete -c palm-cli -l cacert -r -F
complete -c palm-cli -l cert -r -F
complete -c palm-cli -l key -r -F
