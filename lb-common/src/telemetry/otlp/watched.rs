//! An exporter that tells the log when the collector goes away and when it is back, and not each
//! time that it is still away.

use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SpanData, SpanExporter},
};

#[derive(Debug)]
pub struct Watched<E> {
    exporter: E,
    endpoint: String,
    lost: Lost,
}

/// Spans that were lost since the collector went away; none while it is there.
#[derive(Debug, Default)]
struct Lost(AtomicU64);

/// What a batch tells.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Away,
    /// After so many spans were lost.
    Back(u64),
}

// === impl Watched ===

impl<E> Watched<E> {
    pub fn new(exporter: E, endpoint: String) -> Self {
        Self { exporter, endpoint, lost: Lost::default() }
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        let collector = &self.endpoint;
        match (self.lost.observe(&result, spans), result) {
            (Some(News::Away), Err(error)) => {
                tracing::warn!(collector, %error, "traces are lost until the collector takes them");
            }
            (Some(News::Back(lost)), _) => {
                tracing::info!(collector, lost, "the collector takes traces again");
            }
            _ => {}
        }
        // All that is to be said of a failure was said.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        let lost = self.lost.0.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(collector = self.endpoint, lost, "the collector did not come back");
        }
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

// === impl Lost ===

impl Lost {
    /// Batches come one after another.
    fn observe(&self, result: &Result<(), OTelSdkError>, spans: u64) -> Option<News> {
        if result.is_err() {
            return (self.0.fetch_add(spans, Ordering::Relaxed) == 0).then_some(News::Away);
        }
        match self.0.swap(0, Ordering::Relaxed) {
            0 => None,
            lost => Some(News::Back(lost)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_is_news_and_the_way_back_says_what_was_lost() {
        let lost = Lost::default();
        let away = || Err(OTelSdkError::InternalFailure("refused".into()));
        let news: Vec<_> = [Ok(()), away(), away(), away(), Ok(()), Ok(()), away(), Ok(())]
            .iter()
            .map(|result| lost.observe(result, 10))
            .collect();
        let expected = [
            None,
            Some(News::Away),
            None,
            None,
            Some(News::Back(30)),
            None,
            Some(News::Away),
            Some(News::Back(10)),
        ];
        assert_eq!(news, expected);
    }
}
