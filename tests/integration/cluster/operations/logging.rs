//! A log that cannot be written: its lines are dropped and counted, and the node continues.

use serde_json::json;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use triarch_harness::cluster::WAIT_TIMEOUT;
use triarch_harness::{Api, addresses, binary, eventually, http};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_node_whose_log_cannot_be_written_works_and_counts_the_missing_lines() {
    let address = SocketAddr::new(addresses::own_address(), addresses::PORT_BASE + 1);
    let directory = tempfile::tempdir().expect("a directory");
    let full = || {
        let file = OpenOptions::new().write(true).open("/dev/full");
        Stdio::from(file.expect("Linux has it"))
    };
    let mut server = Server(
        Command::new(binary::triarch())
            .args(["server", "--id", "1", "--data-dir"])
            .arg(directory.path())
            .args(["--cluster", &format!("1={address}")])
            .stdout(full())
            .stderr(full())
            .spawn()
            .expect("it starts"),
    );
    let api = Api::new(http::client(), format!("http://{address}"));
    eventually(WAIT_TIMEOUT, "the node is ready", async || {
        let ready = api.call(http::Method::GET, "/readyz").send().await;
        ready.is_ok_and(|reply| reply.status == 200).then_some(())
    })
    .await;
    let job = json!({"tasks": [{"kind": "none"}]});
    api.post("/v1/jobs", &job).await.expect(201);
    eventually(
        WAIT_TIMEOUT,
        "the line that it is up is counted",
        async || {
            let metrics = api.get("/metrics").await;
            let dropped = metrics
                .text
                .lines()
                .find_map(|line| line.strip_prefix("triarch_log_lines_dropped_total "))
                .unwrap_or_else(|| panic!("{}", metrics.text));
            (dropped != "0").then_some(())
        },
    )
    .await;
    assert!(server.0.try_wait().expect("a child").is_none(), "it ended");
}
