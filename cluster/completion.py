"""What a shell runs so that its Tab key asks this program; printed by `sixfold --completion SHELL`.

In: the name of a shell. Out: its script. On disk: nothing: no file of a shell is touched.

Each script asks as typer's own would, so typer answers. In bash a word that goes on (`sampler.`, `sampler.steps=`) gets
no blank behind it.
"""

VARIABLE = "_SIXFOLD_COMPLETE"  # a shell asks with it

SCRIPTS = {
    "bash": """\
_sixfold_completion() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
                   _SIXFOLD_COMPLETE=complete_bash "$1" ) )
    [[ ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    return 0
}
complete -o default -F _sixfold_completion sixfold
""",
    "zsh": """\
#compdef sixfold
_sixfold_completion() {
    eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _SIXFOLD_COMPLETE=complete_zsh sixfold)
}
compdef _sixfold_completion sixfold
""",
    "fish": """\
function _sixfold_completion
    env _SIXFOLD_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \\
        _TYPER_COMPLETE_ARGS=(commandline -cp) sixfold
end
complete --command sixfold --no-files --arguments "(_sixfold_completion get-args)" \\
    --condition "_sixfold_completion is-args"
""",
}
