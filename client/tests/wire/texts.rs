//! What the command says of itself.

use crate::peer::{croft, text};

#[tokio::test]
async fn every_shell_gets_its_completions() {
    for (shell, part) in [
        ("bash", "complete -F _croft"),
        ("zsh", "#compdef croft"),
        ("fish", "complete -c croft"),
    ] {
        let output = croft(&["completion", shell], &[]).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(part), "{shell}");
    }
    assert_eq!(
        croft(&["completion", "csh"], &[]).await.status.code(),
        Some(2)
    );
}

#[tokio::test]
async fn there_is_a_man_page_for_each_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a path");
    let output = croft(&["man", path], &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for page in ["croft.1", "croft-builds-show.1", "croft-context-add.1"] {
        let page = std::fs::read_to_string(folder.path().join(page)).expect("a page");
        assert!(page.contains(".TH"), "{page}");
    }
}
