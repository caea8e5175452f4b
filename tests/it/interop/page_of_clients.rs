//! The programs of docs/clients.md, as they stand there.

use std::path::Path;
use std::process::Command;

use super::browser::{Browser, site_of};
use crate::support::{Paho, free_ports, go_program, node, paho, project_file};
use crate::up::running::{Up, Watched, sample, succeed};

/// The text of the block with this mark, such as `js node`.
fn block(mark: &str) -> String {
    let page = std::fs::read_to_string(project_file("docs/clients.md")).unwrap();
    let (_, rest) = page.split_once(&format!("```{mark}\n")).unwrap_or_else(|| panic!("no block {mark}"));
    rest.split_once("```").unwrap().0.to_owned()
}

fn written(directory: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn programs_in_python_node_and_go_do_what_the_page_says() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "tutorial");
    let here = |mark: &str| block(mark).replace("1883", &up.port.to_string());
    let run = |mut program: Command, name: &str, mark: &str| {
        program.arg(written(directory.path(), name, &here(mark)));
        succeed(program)
    };
    assert_eq!(run(paho(Paho::V2), "two.py", "python paho2"), "test/python 21.5\n");
    assert_eq!(run(paho(Paho::V1_6), "one.py", "python paho1"), "test/python 21.5\n");
    assert_eq!(run(node(), "node.js", "js node"), "test/node 21.5\n");
    for (name, topic) in [("connect3", "test/go/3"), ("connect5", "test/go/5")] {
        let source = project_file("tests/lab/modules/golang").join(name).join("main.go");
        assert_eq!(block(&format!("go {name}")), std::fs::read_to_string(source).unwrap(), "{name}: what is built");
        let mut program = go_program(name);
        program.arg(format!("localhost:{}", up.port));
        assert_eq!(succeed(program), format!("{topic} 21.5\n"));
    }
    up.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_for_a_browser_does_what_the_page_says() {
    let directory = tempfile::tempdir().unwrap();
    let [mqtt, ws] = free_ports();
    let text = block("html browser").replace("8083", &ws.to_string());
    let site = site_of("/kitchen.html", &text).await;
    let listeners = format!(
        "spec:\n  listeners:\n    - {{name: mqtt, protocol: mqtt, port: {mqtt}}}\n    - {{name: ws, protocol: ws, port: \
         {ws}, allowedOrigins: [\"http://localhost:{}\"]}}\n",
        site.port()
    );
    let manifest = sample("tutorial").replacen("spec:\n", &listeners, 1);
    let up = Up::start(directory.path(), &manifest, mqtt, &[]);
    let listener = Watched::spawn(up.shell(&format!("exec mosquitto_sub -p {mqtt} -t test/page -v -d")));
    listener.line_with("Subscribed");
    let browser = Browser::open(&format!("http://localhost:{}/kitchen.html", site.port()));
    listener.line_with("test/page opened");
    drop(browser);
    up.stop();
}
