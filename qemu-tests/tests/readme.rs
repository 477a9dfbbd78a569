//! The README is true.

use rootbeam_init::settings::options::OPTIONS;

const README: &str = include_str!("../../README.md");

/// The table row of each option, made from the list that the parser reads.
#[test]
fn the_readme_lists_every_option_as_it_is() {
    let rows = OPTIONS.map(|option| {
        let value = option.value.replace('|', "\\|");
        format!("| `{}` | `{value}` | {} | {} |", option.name, option.default, option.meaning)
    });
    let at = README.find("|---|---|---|---|\n").expect("no table of options") + "|---|---|---|---|\n".len();
    let found: Vec<&str> = README[at..].lines().take(rows.len()).collect();
    assert_eq!(found, rows);
}

#[test]
fn the_readme_names_both_commands_and_every_folder() {
    for part in ["make demo", "make test", "`init/`", "`initramfs/`", "`tools/`", "`qemu-tests/`", "MIT OR Apache-2.0"]
    {
        assert!(README.contains(part), "{part}");
    }
}
