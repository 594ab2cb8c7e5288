//! The OpenAPI document agrees with the interface.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;
use triarch_harness::Cluster;

#[tokio::test]
async fn every_node_serves_the_same_openapi_document_and_accepts_exactly_what_it_describes() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let document = api.get("/openapi.json").await.expect(200);
    for node in cluster.ids() {
        let other = cluster.api(node).get("/openapi.json").await.expect(200);
        assert_eq!(other, document, "node {node}");
    }
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3."))
    );
    for (path, item) in document["paths"].as_object().expect("paths") {
        let documented: BTreeSet<String> = item
            .as_object()
            .expect("operations")
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        let place = path.replace(['{', '}'], "");
        let refused = api.call(Method::TRACE, &place).answer().await;
        refused.refused(405, "method_not_allowed");
        let mut taken: BTreeSet<String> = refused
            .header("allow")
            .unwrap_or_else(|| panic!("{path} does not say what it takes"))
            .split(',')
            .map(|method| method.trim().to_owned())
            .collect();
        // Every route with GET accepts HEAD too.
        taken.remove("HEAD");
        assert_eq!(taken, documented, "{path}");
    }
    let problem = &document["components"]["schemas"]["Problem"];
    assert!(
        problem["properties"]["code"]["enum"]
            .as_array()
            .is_some_and(|codes| codes.contains(&Value::from("no_leader")))
    );
}
