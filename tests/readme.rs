//! The program in the README is the one that the tests compile and run.

#[test]
fn the_readme_shows_the_quickstart_program() {
    let readme = include_str!("../README.md");
    let program = include_str!("c/quickstart.c");
    let fenced = format!("<!-- tests/c/quickstart.c -->\n```c\n{program}```\n");
    assert!(
        readme.contains(&fenced),
        "README.md differs from tests/c/quickstart.c"
    );
}
