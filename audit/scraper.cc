#include "audit/scraper.h"

#include "audit/tcp.h"

namespace nova::audit {
namespace {

constexpr Duration kScrapeLimit = std::chrono::seconds(2);

}  // namespace

Result<Exposition> Scraper::Scrape(const ServiceTarget& service) {
  NOVA_TRY(const HostPort admin, ParseTarget(service.admin_target));
  const auto answer = runtime_.RunBlocking<http::Response>(
      kScrapeLimit, [&](runtime::Call& call) { return http_.Get(call, admin.host, admin.port, "/metrics"); });
  if (!answer) return Error(answer.error()).WithContext("/metrics of " + service.name);
  return Exposition::Parse(answer->body);
}

Result<Scraper::Scrapes> Scraper::ScrapeAll() {
  Scrapes scrapes;
  for (const ServiceTarget& service : config_.services) {
    NOVA_TRY(Exposition scraped, Scrape(service));
    scrapes.emplace(service.name, std::move(scraped));
  }
  return scrapes;
}

}  // namespace nova::audit
