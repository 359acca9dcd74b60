//! Real grpcurl: what an operator has.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::process::Command;

use crate::{
    eventually::{PATIENCE, within},
    tools::tool,
};

/// A controller as grpcurl sees it: everything comes from reflection.
#[derive(Clone, Copy, Debug)]
pub struct Grpcurl(pub SocketAddr);

/// A refusal by the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Like `InvalidArgument`.
    pub code: String,
    pub message: String,
}

// === impl Grpcurl ===

impl Grpcurl {
    /// # Panics
    /// If grpcurl fails.
    pub async fn list(&self) -> Vec<String> {
        let text = self.run(&["-plaintext", &self.0.to_string(), "list"]).await;
        text.expect("the controller has reflection").lines().map(Into::into).collect()
    }

    /// # Panics
    /// If there is no such symbol.
    pub async fn describe(&self, symbol: &str) -> String {
        let text = self.run(&["-plaintext", &self.0.to_string(), "describe", symbol]).await;
        text.unwrap_or_else(|error| panic!("{symbol}: {error}"))
    }

    /// Calls a method that answers once: of `lb.v1.Fleet`, unless it is given with its service.
    ///
    /// # Errors
    /// The controller's refusal.
    pub async fn call(&self, method: &str, request: &Value) -> Result<Value, Refusal> {
        let mut answers = self.stream(method, request).await?;
        assert_eq!(answers.len(), 1, "{method} answers once: {answers:?}");
        Ok(answers.remove(0))
    }

    /// As [`Grpcurl::call`], where the answer matters.
    ///
    /// # Panics
    /// If the controller refuses.
    pub async fn ok(&self, method: &str, request: &Value) -> Value {
        let answer = self.call(method, request).await;
        answer.unwrap_or_else(|refusal| panic!("{method} {request}: {refusal:?}"))
    }

    /// Calls a method that answers until it is done.
    ///
    /// # Errors
    /// The controller's refusal.
    ///
    /// # Panics
    /// If grpcurl does not work.
    pub async fn stream(&self, method: &str, request: &Value) -> Result<Vec<Value>, Refusal> {
        let (address, data) = (self.0.to_string(), request.to_string());
        let method = match method.contains('/') {
            true => method.to_owned(),
            false => format!("lb.v1.Fleet/{method}"),
        };
        let args = ["-plaintext", "-emit-defaults", "-d", &data, &address, &method];
        let text = self.run(&args).await.map_err(|error| refusal(&error))?;
        let answers = serde_json::Deserializer::from_str(&text).into_iter();
        Ok(answers.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    async fn run(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(tool("grpcurl"));
        command.args(args).kill_on_drop(true);
        let output = within(PATIENCE, "grpcurl ends", command.output()).await;
        let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("grpcurl prints text");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

/// A 64-bit number, which JSON of protobuf has as a string.
///
/// # Panics
/// If it is none.
pub fn number(value: &Value) -> u64 {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.unwrap_or_else(|| panic!("{value} is no number"))
}

fn refusal(text: &str) -> Refusal {
    let part = |label: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        line.unwrap_or_else(|| panic!("grpcurl failed: {text}")).trim().to_owned()
    };
    let (_, message) = text.split_once("Message:").unwrap_or_default();
    Refusal { code: part("Code:"), message: message.trim().into() }
}
