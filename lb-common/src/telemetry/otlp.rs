//! Spans on their way to a collector: OTLP over gRPC, in batches, from threads of its own.
//!
//! Whoever ends a span puts it into a queue and never waits: when the queue is full because the
//! collector is slow or away, the span is lost, which the log says, and how many in the end.

use std::{io, time::Duration};

use http::Uri;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tokio::sync::oneshot;

use self::watched::Watched;

mod watched;

/// Where spans go, and whose they are.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Of the collector: `http://host:port`.
    pub endpoint: Uri,
    /// `service.name`.
    pub service: &'static str,
    /// `service.instance.id`, if the process has a name.
    pub instance: Option<String>,
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    #[error("no thread for the export of traces: {0}")]
    Thread(#[from] io::Error),
    #[error("no export of traces: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// Exports until it is dropped; what is queued then still goes out, if that takes no longer than a
/// moment.
#[derive(Debug)]
pub struct Exporter {
    pub(super) provider: SdkTracerProvider,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

/// Spans that wait for the next export; more than these are lost.
const QUEUE: usize = 4096;
const BATCH: usize = 512;
/// A span is exported that long after its end at the latest, if the collector keeps up.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end of the process may be held up.
const END_TIMEOUT: Duration = Duration::from_secs(2);

// === impl Exporter ===

impl Exporter {
    /// Does not wait for the collector, which may come later and go at times.
    ///
    /// # Errors
    /// If the system has no thread for it, or the environment has settings (`OTEL_EXPORTER_OTLP_*`)
    /// that are not valid.
    pub fn start(destination: Destination) -> Result<Self, OtlpError> {
        let Destination { endpoint, service, instance } = destination;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let collector = endpoint.to_string();
        let exporter = {
            // Its connection lives there.
            let _entered = runtime.enter();
            SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&collector)
                .with_timeout(EXPORT_TIMEOUT)
                .build()?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("lb-otlp".into()).spawn(move || {
            let _ = runtime.block_on(stopped);
            // A look-up of the collector's name may hang, and nobody is to wait for it.
            runtime.shutdown_background();
        })?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(INTERVAL)
            .build();
        let instance = instance.map(|instance| KeyValue::new("service.instance.id", instance));
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attributes(instance.into_iter().chain([version]));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(
                BatchSpanProcessor::builder(Watched::new(exporter, collector))
                    .with_batch_config(batches)
                    .build(),
            )
            // What is not to be recorded does not become a span in the first place.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_resource(resource.build())
            .build();
        Ok(Self { provider, _stop: stop })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(END_TIMEOUT) {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
    }
}
